"""A vLLM server for rollouts: `python -m longrl.rollout.serve FOLDER --max-model-len 8192 --port 8000 [...]`.

It is vLLM's own server with the arguments `vllm.Engine` has, and with what `server.Servers` needs: token ids in and
out, embeddings as input, the weight-update endpoints. All other arguments of vLLM may follow, for instance
`--tensor-parallel-size 4 --data-parallel-size 2`. Whoever reaches its port may change its weights: it listens on
127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from longrl.models.base import Student
from longrl.models.families import family_class
from longrl.rollout.vllm import model_options


def arguments(folder: str, max_model_len: int, family: type[Student], rest: list[str]) -> list[str]:
    """The command line of vLLM's server for a model of this family.

    >>> words = arguments("folder", 4096, Student, ["--port", "8000"])
    >>> words[:5], words[-2:]
    (['--model', 'folder', '--host', '127.0.0.1', '--enable-scale-out'], ['--port', '8000'])
    """
    options: dict[str, Any] = {
        "model": str(Path(folder) / family.VLLM_FOLDER),
        "host": "127.0.0.1",
        "enable_scale_out": True,
        "weight_transfer_config": {"backend": "longrl_shared_file"},
        "worker_extension_cls": "longrl.rollout.transfer.Worker",
        **model_options(max_model_len, family),
    }
    return [word for name, value in options.items() for word in flag(name, value)] + rest


def flag(name: str, value: Any) -> list[str]:
    """An argument as words of a command line.

    >>> flag("enable_chunked_prefill", False), flag("limit", {"video": 0})
    (['--no-enable-chunked-prefill'], ['--limit', '{"video": 0}'])
    """
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


def main(words: list[str]) -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="python -m longrl.rollout.serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", help="Hugging Face folder of the model")
    parser.add_argument("--max-model-len", type=int, default=4096, help="longest prompt and response, in tokens")
    known, rest = parser.parse_known_args(words)
    family = family_class(known.folder)
    family.vllm_prepare()
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # the endpoints for new weights
    from vllm.entrypoints.launchers.api_server import entry

    sys.argv = [sys.argv[0], *arguments(known.folder, known.max_model_len, family, rest)]
    entry.main()


if __name__ == "__main__":
    main(sys.argv[1:])
