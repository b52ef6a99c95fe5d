"""Everything RayLens keeps on disk, and the only room that does I/O on a workspace.

A workspace is one folder, on a local disk or in an object store (``s3://bucket/prefix``)::

    raylens.json                          schema version of everything below
    replies/…                             answers of language models, by what was asked (raylens.llm.replies)
    labels/…                              what people say of features (labels.py), a journal (journal.py)
    traces/…                              spans, and what was read of them (traces.py), a log (commits.py) in Parquet
    label_cache/<source>/…                labels from elsewhere, as they were given (label_cache.py)
    runs/<run_id>.json                    one record a run, rewritten by its heartbeat (runs.py)
    runs/<run_id>.end                     how it ended, where it could not write that itself (run_ends.py)
    audits/<session>/runs/<run>/…         what audits found, and beside it what they go on from (audit_paths.py)
    audits/_references/<key>/…            what candidates of one reference share (audit_parts.py)
    calibrations/<id>.json                scores of benign fine-tunes (audit_calibrations.py)
    organisms/…                           fine-tunes of known behaviour, as rows (audit_organisms.py)
    edges/…                               what caused features, as rows (edges.py)
    caches/<cache_id>/cache.json          identity of the cache and what is known of its model (workspace.py)
    caches/<cache_id>/lock/<token>.json   who may write it (lock.py)
    caches/<cache_id>/windows/            shards of windows, and documents/ beside them
    caches/<cache_id>/shards/<sae key>/   encoder output, a file a shard of windows
    caches/<cache_id>/saes/<sae key>.json which SAE that is
    caches/<cache_id>/generations/<hash>/ merged files, in a folder named by what they are made of
    caches/<cache_id>/generations/<gen>/  manifest.json: all files of one generation (manifest.py)
    caches/<cache_id>/findings/<kind>/…   explanations and scores, a folder a pass (findings.py)
    caches/<cache_id>/pieces/<key>/…      excerpts as sentence embeddings, and their index (piece_vectors.py)
    caches/<cache_id>/search/<sae key>/…  all explanations of an SAE in one file, for searches (phrases.py)
    caches/<cache_id>/current.json        which generation readers see: the one pointer that is ever switched

Readers never list folders to find data: they follow ``current.json`` to a manifest. Writers pass
one door (:class:`raylens.store.files.Files`), whose ``commit`` is atomic and durable.
"""
