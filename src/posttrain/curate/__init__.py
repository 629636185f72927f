"""What a language model says about data: texts kept or dropped, told apart by domain, flagged, drawn by difficulty."""
