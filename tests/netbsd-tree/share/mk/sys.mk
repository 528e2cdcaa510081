# Rules and tools that every makefile starts with.
.SUFFIXES: .o .pico .c .d
