"""SonoDistill training: everything that makes an encoder."""
