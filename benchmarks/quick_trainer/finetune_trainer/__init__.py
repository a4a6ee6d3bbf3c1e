"""A trainer that is done at once: keeps the pod contract (docs/pod-contract.md), so that the operator alone is measured."""
