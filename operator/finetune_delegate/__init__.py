"""Runs one job at a provider, inside a pod of the job's own namespace and with its identity.

The train stage of a delegated job: reads what prepare wrote, converts and uploads it, submits it once, watches it, evaluates
base and tuned model at the provider, and writes the same manifest as the trainer. Knows no Kubernetes.
"""
