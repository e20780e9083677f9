"""Rules of this chapter on views made by hand."""
