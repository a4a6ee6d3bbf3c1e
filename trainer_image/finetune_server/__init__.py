"""The model server: one base model and many LoRA adapters on CPU, with the HTTP surface of vLLM.

    __main__ -> folder                             what of --model is safe to load
    __main__ -> api -> protocol, prompts, answers     the event loop: HTTP, OpenAI bodies
                api -> registry -> adapters           model names; checks of an adapter folder
                api -> engine                         queue limits, drain; the only way to the model thread
                       engine -> worker -> batch      the model thread: whose turn it is; tensors
                                 worker -> model      weights, adapters put in and switched

Only worker, batch, model and adapters import torch; they are imported when the model thread starts, so that ``--help`` and
``/health`` answer at once. Knows neither Kubernetes nor storage: adapters are folders below ``--adapter-root``.
"""
