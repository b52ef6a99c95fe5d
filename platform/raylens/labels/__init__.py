"""What others say of features: Neuronpedia's pages and explanations, fetched, imported, kept and judged.

::

    names               which Neuronpedia model and source an SAE's labels live under
    guard               SAE weights, label source and config agree, or nothing starts (A2.15)
    explanations        a page and its explanations, read from JSON that somebody else wrote
    best                which explanation of a feature to show (A2.13)
    label_store         what is known already, in the workspace (A2.11)
    settings            address, mode, limits and key; from the environment
    remote              one request to Neuronpedia, and every way in which it can fail
    client              look-ups: memory, then the workspace, then Neuronpedia where that is allowed (A2.12)
    exports             bulk files of Neuronpedia
    sqlite_cache        an existing feature_cache.sqlite
    proxies             nearest explained neighbours in decoder space (A2.14)
    feature_labels      what a report says of each feature (A2.06)
    coverage            how much of a report is explained, and how well (A2.05)
    own_features        the workspace's own features, as a Neuronpedia page shows them
    page_shapes         the shapes of such a page
    lookup              all that is said of an SAE's features, here and elsewhere
    decoders            decoder rows of SAEs whose weights are at hand
    buckets             safety, tool, intent, reasoning: by the words of a label (A0.18)
    span_labels         labels of a span's features, in time (A0.13–A0.19)
    feature_list        features of a cache, a page at a time
    feature_pairs       two features beside one another
    workspace_features  all of that kept at hand, for services

What is sent to Neuronpedia is model, source and index, and nothing of any text.
"""
