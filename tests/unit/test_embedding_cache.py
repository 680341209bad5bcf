"""Video embeddings: computed once, found again, computed anew when a file is broken, and fewer when space is short."""

import logging
import multiprocessing
import os
import resource
import time
import traceback
from pathlib import Path

import polars as pl
import pytest
import torch

from longrl.config import FrameSettings, RlSettings
from longrl.models import families
from longrl.mrsp.cache import CacheError, EmbeddingCache, EmbeddingKey, VideoEmbeds
from longrl.mrsp.encode import encode_videos
from longrl.training.rank import TrainingError
from longrl.training.rl_prompts import Embeddings
from longrl.video import stories
from longrl.video.decode import DecodeError, FrameCache
from longrl.video.sample import plan_frames

KEY = EmbeddingKey("ab" * 32, "0123", "4567", "float32")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Two rendered stories: (video id, path, duration)."""
    folder = tmp_path_factory.mktemp("films")
    paths = stories.write_corpus(folder, 0, 2)
    return [(str(number) * 64, path) for number, path in enumerate(sorted(paths))]


@pytest.fixture
def frames(tmp_path):
    return FrameCache(tmp_path / "frames")


def test_what_is_put_is_got(tmp_path):
    cache, video = EmbeddingCache(tmp_path), VideoEmbeds(torch.randn(8, 4), (2, 4, 4))
    assert cache.get(KEY) is None
    cache.put(KEY, video)
    found = EmbeddingCache(tmp_path).get(KEY)
    assert torch.equal(found.embeds, video.embeds)
    assert found.grid == video.grid
    assert (cache.hits, cache.misses) == (0, 1)


@pytest.mark.parametrize(
    "other", [{"video_id": "cd" * 32}, {"plan": "ffff"}, {"tower": "ffff"}, {"dtype": "bfloat16"}], ids=str
)
def test_every_part_of_the_key_counts(tmp_path, other):
    cache = EmbeddingCache(tmp_path)
    cache.put(KEY, VideoEmbeds(torch.zeros(8, 4), (2, 4, 4)))
    assert cache.get(EmbeddingKey(**{**KEY.__dict__, **other})) is None


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "flipped", "other dtype"])
def test_a_broken_file_is_counted_and_deleted(tmp_path, damage):
    cache, embeds = EmbeddingCache(tmp_path), torch.zeros(8, 4)
    cache.put(KEY, VideoEmbeds(embeds.double() if damage == "other dtype" else embeds, (2, 4, 4)))
    path = cache.path(KEY)
    whole = path.read_bytes()
    flipped = whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:]  # one bit of the embedding
    damaged = {"truncated": whole[:-5], "garbage": b"\xff" * 100, "empty": b"", "flipped": flipped}
    path.write_bytes(damaged.get(damage, whole))
    reader = EmbeddingCache(tmp_path)
    assert reader.get(KEY) is None
    assert reader.corrupt == 1
    assert not path.exists()


def test_what_is_not_finite_is_refused(tmp_path):
    with pytest.raises(CacheError, match="not finite"):
        EmbeddingCache(tmp_path).put(KEY, VideoEmbeds(torch.full((8, 4), float("nan")), (2, 4, 4)))


def test_an_embedding_is_mapped_not_read_and_outlives_its_file(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.put(KEY, VideoEmbeds(torch.arange(4000.0).view(1000, 4), (250, 4, 4)))
    video = cache.get(KEY)
    assert str(cache.path(KEY)) in Path("/proc/self/maps").read_text()
    cache.path(KEY).unlink()
    assert torch.equal(video.embeds, torch.arange(4000.0).view(1000, 4))


def started(work, *arguments, daemon=False):
    """Do this in a forked process. It ends without Python's exit hooks: Prefect's, where it ran before, fail there."""

    def do():
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=do, daemon=daemon)
    process.start()
    return process


def _write(folder):
    for _ in range(50):
        EmbeddingCache(folder).put(KEY, VideoEmbeds(torch.arange(4000.0).view(1000, 4), (250, 4, 4)))


def test_readers_never_see_half_a_file(tmp_path):
    writers = [started(_write, tmp_path) for _ in range(2)]
    cache = EmbeddingCache(tmp_path)
    while any(writer.is_alive() for writer in writers):
        cache.get(KEY)
    assert cache.corrupt == 0
    assert [path.name for path in cache.path(KEY).parent.iterdir()] == [cache.path(KEY).name]


def key(number: int) -> EmbeddingKey:
    return EmbeddingKey(f"{number:064d}", "0123", "4567", "float32")


VIDEO = VideoEmbeds(torch.zeros(1000, 4), (250, 4, 4))  # 16,000 bytes and a header
GIB = 2**-30


def in_a_process(work, *arguments):
    """Run and let end: what such a process pinned is free."""
    process = started(work, *arguments)
    process.join()
    assert process.exitcode == 0


def _fill(folder, numbers, limit=None):
    cache = EmbeddingCache(folder, limit)
    for number in numbers:
        cache.put(key(number), VIDEO)
        os.utime(cache.path(key(number)), (number, number))  # used at second 0, 1, ...


def there(folder) -> list[int]:
    return sorted(int(path.parent.name) for path in folder.glob("*/*/*.safetensors"))


def test_the_least_recently_used_go_when_space_is_short(tmp_path):
    in_a_process(_fill, tmp_path, range(6))
    in_a_process(lambda: EmbeddingCache(tmp_path).get(key(0)))  # used now
    in_a_process(_fill, tmp_path, [6], 70_000 * GIB)
    assert there(tmp_path) == [0, 4, 5, 6]


def test_what_a_living_process_uses_stays_and_what_a_killed_one_used_goes(tmp_path, caplog):
    living = EmbeddingCache(tmp_path)
    living.put(key(0), VIDEO)
    assert living.get(key(1)) is None  # looked for: it will be there soon
    in_a_process(_fill, tmp_path, range(1, 4))
    killed = started(_hold, tmp_path, 3, daemon=True)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with caplog.at_level(logging.WARNING):
        EmbeddingCache(tmp_path, 1 * GIB).put(key(4), VIDEO)
    assert there(tmp_path) == [0, 1, 3, 4]
    assert "more than frames.embedding_cache_gib" in caplog.text
    killed.kill()
    killed.join()
    EmbeddingCache(tmp_path, 1 * GIB).put(key(5), VIDEO)
    assert there(tmp_path) == [0, 1, 5]
    assert not list((tmp_path / ".pins").glob(f"{killed.pid}-*"))


def _hold(folder, number):
    cache = EmbeddingCache(folder)
    assert cache.get(key(number)) is not None
    (folder / "held").touch()
    time.sleep(600)


def _work(folder, seed):
    """A run in a cache too small for all: whatever it has put or found once it must find again."""
    generator = torch.Generator().manual_seed(seed)
    mine = torch.randperm(24, generator=generator)[:6].tolist()
    cache = EmbeddingCache(folder, 150_000 * GIB)
    for number in mine:
        if cache.get(key(number)) is None:
            cache.put(key(number), VIDEO)
    misses = cache.misses
    for _ in range(20):
        for number in mine:
            assert cache.get(key(number)) is not None
    assert cache.misses == misses
    assert cache.corrupt == 0


def test_many_processes_write_read_and_evict_at_once(tmp_path):
    in_a_process(_fill, tmp_path, range(100, 108))  # to be evicted
    workers = [started(_work, tmp_path, seed) for seed in range(8)]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert not set(there(tmp_path)) & set(range(100, 108))
    EmbeddingCache(tmp_path, 150_000 * GIB).put(key(200), VIDEO)  # the workers have ended: all is within the limit
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*/*")) <= 150_000


def _put_without_space(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    with pytest.raises(CacheError, match="cannot store the embedding of video"):
        EmbeddingCache(folder).put(key(1), VIDEO)


def test_what_cannot_be_stored_is_said_and_leaves_nothing(tmp_path):
    in_a_process(_put_without_space, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 1000] == []


def test_videos_are_encoded_once(tmp_path, films, frames, loaded_student):
    cache = EmbeddingCache(tmp_path / "embeds")
    wanted = [(name, path, plan_frames(8.0, budget, 56, 56)) for name, path in films for budget in (2, 4)]
    first = encode_videos(loaded_student, cache, frames, wanted)
    assert (cache.hits, cache.misses) == (0, 4)
    again = encode_videos(
        loaded_student, cache, FrameCache(tmp_path / "nothing"), [(n, "gone", p) for n, _, p in wanted]
    )
    assert (cache.hits, cache.misses) == (4, 4)
    assert first.keys() == again.keys() == {(name, plan.digest) for name, _, plan in wanted}
    for key, video in first.items():
        assert torch.equal(video.embeds, again[key].embeds)
        assert video.grid == again[key].grid


def test_an_embedding_is_the_towers_own(tmp_path, films, frames, loaded_student):
    (name, path), plan = films[0], plan_frames(8.0, 4, 56, 56)
    ours = encode_videos(loaded_student, EmbeddingCache(tmp_path / "e"), frames, [(name, path, plan)])[
        name, plan.digest
    ]
    pixels, grid = loaded_student.patches(frames.get(name, path, plan))
    with torch.no_grad():
        (theirs,) = loaded_student.model.get_video_features(pixels, torch.tensor([grid])).pooler_output
    assert ours.grid == grid == (2, 4, 4)
    torch.testing.assert_close(ours.embeds, theirs, atol=1e-5, rtol=1e-5)


def test_a_changed_tower_is_encoded_anew(tmp_path, films, frames, student_folder):
    cache, student = EmbeddingCache(tmp_path / "embeds"), families.load(student_folder)
    wanted = [(*films[0], plan_frames(8.0, 2, 56, 56))]
    encode_videos(student, cache, frames, wanted)
    with torch.no_grad():
        student.model.model.visual.merger.mlp[0].weight.mul_(1.1)
    encode_videos(student, cache, frames, wanted)
    assert (cache.hits, cache.misses) == (0, 2)


def test_a_broken_video_is_named_and_the_rest_goes_on(tmp_path, films, frames, loaded_student):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    plan = plan_frames(8.0, 2, 56, 56)
    wanted = [("f" * 64, broken, plan), (*films[0], plan)]
    cache, failures = EmbeddingCache(tmp_path / "embeds"), {}
    found = encode_videos(loaded_student, cache, frames, wanted, failures)
    assert list(found) == [(films[0][0], plan.digest)]
    assert list(failures) == ["f" * 64]
    with pytest.raises(DecodeError):
        encode_videos(loaded_student, cache, frames, wanted[:1])


def test_an_embedding_lost_during_rl_is_encoded_again(tmp_path, films, loaded_student):
    name, path = films[0]
    videos = pl.DataFrame({"video_id": [name], "path": [str(path)], "duration": [8.0]})
    frames = FrameSettings(budget=4, height=56, width=56)
    embeddings = Embeddings(loaded_student, str(tmp_path / "embeds"), str(tmp_path / "frames"), videos, frames)
    row = {"video_id": name, "question": "what moves", "options": ["a ball", "a cube"]}
    first = embeddings.request(row, RlSettings(), seed=0)
    (file,) = (tmp_path / "embeds").glob("*/*/*.safetensors")
    file.unlink()
    file.write_bytes(b"broken")
    again = embeddings.request(row, RlSettings(), seed=0)
    assert torch.equal(first.embeds[0], again.embeds[0])
    assert (embeddings.encoded, embeddings.cache.corrupt) == (2, 1)
    file.unlink()
    with pytest.raises(TrainingError, match=f"the embedding of video {name} has left the cache; run again"):
        embeddings.request(row, RlSettings(zero_stage=3), seed=0)
