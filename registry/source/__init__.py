"""Snapshots by rule: files of this machine, watched, and published when they have changed."""
