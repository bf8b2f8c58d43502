"""CT: volumes in any format, lesions and their masks, crops, pictures for checking."""
