/* Lists, for hosts that have others. */
