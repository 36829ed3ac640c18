"""One file a verb: what people do with Frostline, from Python."""
