"""Study on real photographs: cut-outs pasted on photographs, from Debian packages."""
