"""The scaling study: sizes and history lengths of one architecture, and the law that their quality follows."""
