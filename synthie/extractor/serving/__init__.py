"""The extractor over HTTP: `batching` joins requests for one model thread, `server` speaks JSON."""
