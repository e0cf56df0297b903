"""What is shown: figures, and panels and sliders that run in a page or in Jupyter (the extra `plots`)."""
