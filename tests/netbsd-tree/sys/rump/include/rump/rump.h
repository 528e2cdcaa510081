/* What the tree's kernel offers its programs. */
#define RUMP_ANSWER 41
int rump_answer(void);
int rump_init(void);
int rump_loop(int);
