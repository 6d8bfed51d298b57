"""Whatever the user opens, as a cine: frames with their time, scale and exact place."""
