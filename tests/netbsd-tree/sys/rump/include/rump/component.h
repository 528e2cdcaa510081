/* How a component is found: the kernel starts those in the link set. */
struct component {
	void (*initialise)(void);
};
#define RUMP_COMPONENT(function) \
	static const struct component component = { function }; \
	static const struct component *const in_set __attribute__((section("link_set_rump_components"), used)) = &component
void rumpuser_dprintf(const char *, ...);
