"""What is shown: panels and sliders that run in a page or in Jupyter (the extra `plots`)."""
