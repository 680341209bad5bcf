"""Near-duplicates by text and by meaning, against every pair's true similarity and a real server of embeddings."""

from __future__ import annotations

import json
import random
import re
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from longrl.config import TeacherServer
from longrl.teachers.base import TeacherUnavailable
from tests.curation import open_question, question, rejected, run

WORDS = [f"{first}{last}" for first in ("lan", "cup", "bar", "sto", "win") for last in ("tern", "board", "rel", "ve")]


def text(seed: int, words: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [f"{draw.choice(WORDS)}{draw.randrange(100)}" for _ in range(words)]


def told(words: list[str], number: int = 0, video: str = "v0", **changes) -> dict:
    fields = {"question": "What happens next?", "reasoning": " ".join(words)} | changes
    return question(number, video, **fields)


def alike(words: list[str], changed: int) -> list[str]:
    """The same words but for the last `changed`."""
    return words[: len(words) - changed] + [f"other{n}" for n in range(changed)]


def test_nearly_the_same_reasoning_is_a_duplicate_within_and_across_videos(warehouse):
    words = text(0)
    same = {"question": "What comes next?", "answer": "A"}
    rows = [
        told(words, 0, "v0", answer="A"),
        told(alike(words, 1), 1, "v0", **same),
        told(alike(words, 1), 2, "v1", answer="A"),
        told(text(1), 3, "v2", answer="A"),
    ]
    made = run(warehouse, rows, near_duplicate_threshold=0.8)
    assert rejected(made) == [("v0-q1", "near_duplicate"), ("v1-q2", "near_duplicate")]
    assert [reason.split("% ")[1] for reason in made.rejected()["reason"]] == [
        "the same text as v0-q0 of this video",
        "the same text as v0-q0 of another video",
    ]


def test_a_template_with_other_reasoning_or_another_answer_is_no_duplicate(warehouse):
    rows = [told(text(n), n, f"v{n}", answer="A") for n in range(4)]
    rows += [told(text(0), 7, "v7", answer="B")]
    assert run(warehouse, rows).rejects == 0


def test_open_answers_are_compared_with_the_text(warehouse):
    words = "the red box comes in " + " ".join(text(0))
    rows = [open_question(0, "v0", reasoning=words), open_question(0, "v1", reasoning=words, answer="the red box")]
    assert rejected(run(warehouse, rows, near_duplicate_threshold=0.8)) == [("v1-q0", "near_duplicate")]


def test_all_pairs_over_the_threshold_are_found_and_no_other(warehouse):
    """Against the exact Jaccard similarity of all pairs: 60 texts and copies with up to 12 other words."""
    rows, sets = [], []
    for seed in range(60):
        for copy, changed in enumerate((0, 1, 3, 6, 12)):
            words = alike(text(seed, 80), changed)
            row = told(words, copy, f"v{seed}-{copy}", answer="A")
            rows.append(row)
            every = re.findall(
                r"\w+", f"{row['question']} {' '.join(sorted(row['options']))} {' '.join(words)}".lower()
            )
            sets.append({tuple(every[i : i + 5]) for i in range(len(every) - 4)})
    leaving: set[str] = set()
    for later, mine in enumerate(sets):
        for earlier in range(later):
            theirs = sets[earlier]
            near = len(mine & theirs) / len(mine | theirs) >= 0.85
            if near and rows[earlier]["question_id"] not in leaving:
                leaving.add(rows[later]["question_id"])
    assert len(leaving) > 60
    made = run(warehouse, rows, near_duplicate_threshold=0.85)
    assert set(made.rejected()["item"]) == leaving


def test_a_duplicate_of_what_another_rule_dropped_stays(warehouse):
    words = text(0)
    rows = [told(words, 0, evidence=[]), told(words, 1, "v1")]
    assert rejected(run(warehouse, rows)) == [("v0-q0", "evidence_exists")]


class Embedder(BaseHTTPRequestHandler):
    """/v1/embeddings: counts of words, hashed into 512 places."""

    server: EmbeddingServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.texts += body["input"]
        if self.server.status != 200:
            self.reply(self.server.status, {"error": {"message": "no"}})
            return
        data = [{"object": "embedding", "index": n, "embedding": vector(one)} for n, one in enumerate(body["input"])]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        self.reply(200, {"object": "list", "model": "bag", "data": data[::-1], "usage": usage})

    def reply(self, status: int, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class EmbeddingServer(ThreadingHTTPServer):
    texts: list[str]
    status = 200


def vector(one: str) -> list[float]:
    counts = np.zeros(512)
    for word in re.findall(r"\w+", one.lower()):
        counts[zlib.crc32(word.encode()) % 512] += 1
    return counts.tolist()


@pytest.fixture
def server():
    with EmbeddingServer(("127.0.0.1", 0), Embedder) as http:
        http.texts = []
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield http
        http.shutdown()


def settings(server: EmbeddingServer) -> TeacherServer:
    return TeacherServer(base_url=f"http://127.0.0.1:{server.server_address[1]}/v1", model="bag", retries=0)


def test_the_same_meaning_in_another_order_is_found_by_embeddings(warehouse, server, monkeypatch):
    monkeypatch.setattr("longrl.data.duplicates.BLOCK", 3)
    words = text(0)
    rows = [told(text(n), n, f"v{n}", answer="A") for n in range(8)]
    rows.append(told(random.Random(0).sample(words, len(words)), 8, "v8", answer="A"))
    rows.append(told(random.Random(1).sample(words, len(words)), 9, "v9", answer="B"))  # another answer: no duplicate
    made = run(warehouse, rows, embedding_threshold=0.97, server=settings(server))
    assert made.rejected().rows() == [("v8-q8", "same_meaning", "cosine 1.000 with v0-q0 of another video")]
    assert len(server.texts) == 10


def test_only_new_texts_are_sent_again(warehouse, server):
    rows = [told(text(n), n, f"v{n}", answer="A") for n in range(8)]
    run(warehouse, rows[:5], embedding_threshold=0.9, server=settings(server))
    run(warehouse, rows, embedding_threshold=0.9, server=settings(server))
    assert len(server.texts) == len(set(server.texts)) == 8


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_server_that_fails_stops_the_stage_with_its_name(warehouse, server, status):
    server.status = status
    with pytest.raises(TeacherUnavailable, match=r"http://127.0.0.1:\d+/v1"):
        run(warehouse, [question(0)], embedding_threshold=0.9, server=settings(server))
    assert warehouse.latest("curate") is None


def test_without_a_threshold_no_server_is_asked(warehouse):
    assert "same_meaning" not in run(warehouse, [question(0)]).facts()["rejected"]
