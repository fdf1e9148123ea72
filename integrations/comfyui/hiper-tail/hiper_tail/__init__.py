"""The tail, its file and its place in a conditioning; the fit; the nodes."""
