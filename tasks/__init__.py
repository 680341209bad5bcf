"""One thin Prefect task per stage; each wraps exactly one function of longrl.

The warehouse decides what is cached: a stage looks its artifact up by content key, and a task whose artifact was there
ends in the state `Cached`. A missing artifact is therefore never a hit. Failures that may pass are retried with
back-off; bad data is not.
"""
