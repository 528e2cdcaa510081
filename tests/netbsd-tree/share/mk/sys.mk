# Rules and tools that every makefile starts with.
.SUFFIXES: .o .c .d
