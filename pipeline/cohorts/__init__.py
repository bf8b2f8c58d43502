"""`cohort.toml` and its tables, read and checked: patients, slides, CT studies, lesions."""
