"""Keys of teachers' servers out of Prefect Secrets."""

import os
from typing import Any

from longrl.config import ConfigError, TeacherServer


def export_key(server: TeacherServer) -> None:
    """Put the key of `api_key_secret` where the library looks for it: the environment variable `api_key_env`.

    Raises `ConfigError` when there is no such block.
    """
    if not server.api_key_secret:
        return
    from prefect.blocks.system import Secret

    try:
        block: Any = Secret.load(server.api_key_secret)
    except ValueError as error:
        raise ConfigError(
            f"server.api_key_secret: Prefect has no Secret {server.api_key_secret!r}; create it in the UI under "
            f"Blocks, or put the key in {server.api_key_env}"
        ) from error
    os.environ[server.api_key_env] = str(block.get())
