"""A real Kubernetes on this machine, from source and Debian packages: no Docker, no hub, no released binary.

Standard library only: it runs before any virtual environment exists. Imports go one way:
__main__ -> node, images, addons -> components -> daemons, network, pki, build -> layout, shell.
"""
