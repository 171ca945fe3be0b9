"""Sources: each brings its own kind of data into the one prepared form that everything downstream reads."""
