"""Sessions in: folders of records and pictures, text as token ids, and the stream that training reads."""
