"""One module a format; each turns what it finds at a place into shards of records."""
