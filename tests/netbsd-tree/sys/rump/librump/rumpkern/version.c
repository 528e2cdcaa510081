const char rump_version[] = "0.99.1";
