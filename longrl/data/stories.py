"""Stage `stories`: render the corpus that stands in when no videos are given.

The films lie in `videos/`, what happens in them in `truth.json` beside it: ingest gets the folder and never the
truth. A film appears whole or not at all, so a killed run goes on with the next film.
"""

from __future__ import annotations

from longrl.config import StoriesSettings
from longrl.progress import track
from longrl.video.crew import run_jobs
from longrl.video.stories import write_one, write_truth
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse

VERSION = 1
APART = 1_000_000  # story seeds of one pipeline seed; so two seeds never share a story


def render_stories(settings: StoriesSettings, seed: int, warehouse: Warehouse) -> ArtifactRef:
    """Folder `videos/*.mp4` of `settings.count` different stories and `truth.json`; `rows` counts the films."""

    def build(draft: Draft) -> None:
        first = seed * APART
        folder = draft.folder / "videos"
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob(".*"):  # half a film of a killed run
            leftover.unlink()
        paths = [folder / f"story-{number:07d}.mp4" for number in range(first, first + settings.count)]
        jobs = [
            (path, first + place, settings.scenes, settings.sound)
            for place, path in enumerate(paths)
            if not path.exists()
        ]
        for _, lost in track(run_jobs(write_one, jobs, settings.workers), "stories: rendering", len(jobs)):
            if lost is not None:
                raise lost
        write_truth(draft.folder / "truth.json", first, settings.count, settings.scenes, settings.sound)
        draft.rows = len(paths)

    what = {"count": settings.count, "scenes": settings.scenes, "seed": seed}
    if settings.sound:
        what["sound"] = True
    return warehouse.produce("stories", VERSION, what, {}, build)
