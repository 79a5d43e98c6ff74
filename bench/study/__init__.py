"""What training and decoding against repetition do to a real model: the tables of docs/study.md."""
