"""The HTTP service: queries, exports and streams of an output, for those who may read them."""
