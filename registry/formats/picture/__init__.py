"""Two graphs laid over each other, as one SVG document."""
