"""``sonodistill bench label``: how long the annotation server takes for what people wait for, over HTTP."""
