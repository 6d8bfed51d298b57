"""One page that shows an evaluation, failures included."""
