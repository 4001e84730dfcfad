"""The checks behind `synthie.quality`: a text read against its set goes in, reasons come out."""
