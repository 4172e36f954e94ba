"""Work in several processes, on this machine or on others, through Dask, which the extra "cluster" installs."""
