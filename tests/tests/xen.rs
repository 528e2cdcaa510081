//! Images as guests of a real Xen.

use tests::xen::Host;

#[test]
fn xen_and_dom0_start() {
    let Some(host) = Host::new() else { return };
    let report = host.run("section list xl list\n");
    assert!(report.section("list").contains("Domain-0"), "{}", report.serial());
}
