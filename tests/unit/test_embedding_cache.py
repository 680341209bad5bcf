"""Video embeddings: computed once, found again, and computed anew when a file is broken."""

import multiprocessing

import pytest
import torch

from longrl.models import qwen2_5_vl
from longrl.mrsp.cache import EmbeddingCache, EmbeddingKey, VideoEmbeds
from longrl.mrsp.encode import encode_videos
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


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "nan", "other dtype"])
def test_a_broken_file_is_counted_and_deleted(tmp_path, damage):
    cache = EmbeddingCache(tmp_path)
    embeds = torch.full((8, 4), float("nan")) if damage == "nan" else torch.zeros(8, 4)
    cache.put(KEY, VideoEmbeds(embeds.double() if damage == "other dtype" else embeds, (2, 4, 4)))
    path = cache.path(KEY)
    if damage in ("truncated", "garbage", "empty"):
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[:-5], "garbage": b"\xff" * 100, "empty": b""}[damage])
    assert cache.get(KEY) is None
    assert cache.corrupt == 1
    assert not path.exists()


def _write(folder):
    for _ in range(50):
        EmbeddingCache(folder).put(KEY, VideoEmbeds(torch.arange(4000.0).view(1000, 4), (250, 4, 4)))


def test_readers_never_see_half_a_file(tmp_path):
    writers = [multiprocessing.get_context("fork").Process(target=_write, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    cache = EmbeddingCache(tmp_path)
    while any(writer.is_alive() for writer in writers):
        cache.get(KEY)
    assert cache.corrupt == 0
    assert [path.name for path in cache.path(KEY).parent.iterdir()] == [cache.path(KEY).name]


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
    pixels, grid = qwen2_5_vl.patches(loaded_student, frames.get(name, path, plan))
    with torch.no_grad():
        (theirs,) = loaded_student.model.get_video_features(pixels, torch.tensor([grid])).pooler_output
    assert ours.grid == grid == (2, 4, 4)
    torch.testing.assert_close(ours.embeds, theirs, atol=1e-5, rtol=1e-5)


def test_a_changed_tower_is_encoded_anew(tmp_path, films, frames, student_folder):
    cache, student = EmbeddingCache(tmp_path / "embeds"), qwen2_5_vl.load(student_folder)
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
