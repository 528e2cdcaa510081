/* A tool of the tree: the code generator of one of its components. K&R, as old trees are. */
extern int printf();
name;

main()
{
	printf("const char greeting[] = \"hello\";\n");
	return name;
}
