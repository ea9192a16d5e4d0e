"""Workflows as graphs: what every graph format is read into, checked and compared as."""
