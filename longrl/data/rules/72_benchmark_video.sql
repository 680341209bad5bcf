-- The video is none of a benchmark's: neither its bytes (sha256), nor its file's name, nor a YouTube id in that name.
SELECT question_id, format('{} has this video, as {}', min(benchmark), min(name)) AS reason
FROM questions
JOIN video_names USING (video_id)
JOIN benchmark_videos USING (name)
GROUP BY question_id
