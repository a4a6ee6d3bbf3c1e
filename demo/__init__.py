"""``make demo``: the main job on real input, from an empty cluster to an adapter that answers better than its base."""
