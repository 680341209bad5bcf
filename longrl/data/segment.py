"""Stage `segment`: cut every video into clips."""

from __future__ import annotations

import polars as pl

from longrl.config import SegmentSettings
from longrl.video.segment import cut
from longrl.warehouse import schemas
from longrl.warehouse.artifacts import ArtifactRef, Draft, Warehouse
from longrl.warehouse.ledger import item_key

VERSION = 2


def segment(settings: SegmentSettings, videos: ArtifactRef, warehouse: Warehouse) -> ArtifactRef:
    """Table CLIPS: the clips of all videos in the order of time, covering each video exactly.

    A clip's id hashes its video and its span, so captions survive a corpus that grows.
    """

    def build(draft: Draft) -> None:
        rows = []
        for video_id, duration in videos.table().select("video_id", "duration").iter_rows():
            for index, (start, end) in enumerate(cut(duration, settings.clip_seconds, settings.minimum_tail)):
                clip_id = item_key(video_id, start, end)
                rows.append(
                    {
                        "clip_id": clip_id,
                        "video_id": video_id,
                        "index": index,
                        "start": start,
                        "end": end,
                        "motion": None,
                    }
                )
        draft.write(pl.DataFrame(rows, schema=schemas.empty("segment").schema))

    return warehouse.produce("segment", VERSION, {"segment": settings}, {"videos": videos}, build)
