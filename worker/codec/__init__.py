"""Wire format version 1: record value -> Request, outputs -> record value."""
