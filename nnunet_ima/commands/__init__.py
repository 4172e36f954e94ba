"""Console scripts: each a thin shell that parses, calls the library and prints."""
