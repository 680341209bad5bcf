"""Long videos encoded by two ranks together: the embeddings that one rank computes, each video once."""

from dataclasses import astuple

import pytest
import torch

from longrl.models import families
from longrl.mrsp import encode
from longrl.mrsp.cache import EmbeddingCache, EmbeddingKey
from longrl.training.launch import launch
from longrl.video import stories
from longrl.video.decode import FrameCache
from longrl.video.sample import plan_frames

PATCHES = 2 * 6 * 8  # two temporal patches of 84x112 pixels
HEIGHT, WIDTH = 84, 112  # 3x4 tokens: the tower's windows of 2x2 tokens are smaller, and of two sizes


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two long videos of uneven lengths, one short and one broken."""
    folder = tmp_path_factory.mktemp("work")
    first, second = sorted(stories.write_corpus(folder / "films", 0, 2))
    (folder / "broken.mp4").write_bytes(b"no video")
    wanted = [
        ("1" * 64, str(first), plan_frames(8.0, 11, HEIGHT, WIDTH)),  # six temporal patches, the last a half: 3 chunks
        ("2" * 64, str(second), plan_frames(8.0, 6, HEIGHT, WIDTH)),  # three: two chunks, the last a half
        ("1" * 64, str(first), plan_frames(8.0, 4, HEIGHT, WIDTH)),  # short
        ("f" * 64, str(folder / "broken.mp4"), plan_frames(8.0, 11, HEIGHT, WIDTH)),
    ]
    return folder, wanted


@pytest.fixture(scope="module")
def said(work, student_folder):
    """What two ranks said."""
    folder, wanted = work
    heard: list[dict] = []
    job = {
        "model": str(student_folder),
        "folder": str(folder),
        "frames": str(folder / "frames"),
        "patches": PATCHES,
        "wanted": [(name, path, plan.times, astuple(plan)[1:]) for name, path, plan in wanted],
    }
    launch("tests.distributed.encode_loop", job, 2, folder, heard.append)
    return heard


@pytest.fixture
def by_chunks(monkeypatch):
    monkeypatch.setattr(encode, "PATCHES", PATCHES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_ranks_give_the_embeddings_of_one(work, said, student_folder, tmp_path, by_chunks, dtype):
    folder, wanted = work
    student = families.load(student_folder, dtype)
    tower, frames = student.tower_digest(), FrameCache(folder / "frames")
    alone = encode.encode_videos(student, EmbeddingCache(tmp_path), frames, wanted[:3])
    shared = EmbeddingCache(folder / "embeds")
    for name, path, plan in wanted[:3]:
        video = shared.get(EmbeddingKey(name, plan.digest, tower, dtype))
        assert torch.equal(video.embeds, alone[name, plan.digest].embeds)
        pixels, grid = student.patches(frames.get(name, path, plan))
        with torch.no_grad():
            (whole,) = student.encode([pixels], [grid])
        assert video.grid == grid
        tolerance = 1e-5 if dtype == "float32" else 5e-2
        torch.testing.assert_close(video.embeds, whole, atol=tolerance, rtol=tolerance)


def test_each_video_is_encoded_once_by_all_ranks_together(said):
    done = [message for message in said if message["kind"] == "done"]
    assert len(done) == 8
    for dtype in ("float32", "bfloat16"):
        for again in (False, True):
            mine = [m for m in done if (m["dtype"], m["again"]) == (dtype, again)]
            assert sum(message["encodes"] for message in mine) == 3
            assert all(list(message["broken"]) == ["f" * 64] for message in mine)
