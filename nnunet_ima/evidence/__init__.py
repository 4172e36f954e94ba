"""How measurements are made, kept and judged, for every task."""
