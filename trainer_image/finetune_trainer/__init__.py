"""One recipe: data -> model -> train -> evaluate -> publish. Config in, files and JSON out; knows nothing of Kubernetes.

Three stages, each a program of its own pod: ``prepare`` (:mod:`finetune_trainer.prepare`) checks everything that can be checked
without a GPU and decides every value left out, ``train`` (:mod:`finetune_trainer.recipe`) reads only what that wrote, ``collect``
(:mod:`finetune_trainer.collect`) finds the outcome of a train pod whose last words were lost.
"""
