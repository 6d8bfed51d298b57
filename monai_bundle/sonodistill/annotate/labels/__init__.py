"""Labels: one current row a frame and annotator, with its history, and how far annotators agree."""
