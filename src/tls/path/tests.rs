//! Chains of every kind of fault, and what each costs in checks of signatures.

use super::super::{
    signature::{RSA_EXPONENT_MAX, RSA_MODULUS_BITS_MAX},
    verify::{CERTIFICATE_LEN_MAX, CERTIFICATES_MAX, IssuerPolicy, Refusal},
};
use super::kit::{
    CERT_SIGN, CRL_SIGN, DIGITAL_SIGNATURE, Judge, KEY_ENCIPHERMENT, Key, Plan, Verdict, authority, leaf,
    root,
};

/// Nobody reads it.
const OID_NOBODY_KNOWS: &str = "1.3.6.1.4.1.55555.1";
const OID_NAME_CONSTRAINTS: &str = "2.5.29.30";
const OID_EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const OID_BASIC_CONSTRAINTS: &str = "2.5.29.19";
const OID_KEY_USAGE: &str = "2.5.29.15";

/// So many authorities, each below the one before, and a leaf below the last. The root has key 0.
fn chain(authorities: u8) -> (Vec<Plan>, Plan) {
    let name = |number: u8| if number == 0 { "root".to_owned() } else { format!("authority{number}") };
    let between =
        (1..=authorities).map(|number| authority(&name(number), &name(number - 1), number, number - 1));
    (between.collect(), leaf(&name(authorities), 100, authorities))
}

/// Nine authorities and a leaf of one name. Each is signed with the key of the next, and they come in the order in which
/// whoever looks for the signer of one asks all the others first.
fn of_one_name(name: &str) -> (Vec<Plan>, Plan) {
    let above = |number: u8| authority(name, name, number, number + 1);
    ((51..60).rev().map(above).collect(), leaf(name, 50, 51))
}

#[test]
fn keys_of_a_stranger_check_no_signature() {
    let (presented, leaf) = of_one_name("stranger");
    let judge = Judge::of(&[root("root", 0)]);
    assert_eq!(judge.judge(&presented, &leaf), (Verdict::UnknownIssuer, 0));
    // Whoever uses the root's name has the root's key look at each certificate once.
    let (presented, leaf) = of_one_name("root");
    assert_eq!(judge.judge(&presented, &leaf), (Verdict::UnknownIssuer, CERTIFICATES_MAX));
}

#[test]
fn honest_chains_take_a_signature_for_each_certificate() {
    let (between, leaf) = chain(1);
    let judge = Judge::of(&[root("root", 0)]);
    let whole = [between.as_slice(), &[root("root", 0)]].concat();
    for presented in [between.as_slice(), &whole] {
        assert_eq!(judge.judge(presented, &leaf), (Verdict::Accepted, 2));
    }
    // One of the same agency need not present it.
    let same_agency = Judge { known: between.clone(), ..Judge::of(&[root("root", 0)]) };
    assert_eq!(same_agency.judge(&[], &leaf), (Verdict::Accepted, 2));
    assert_eq!(same_agency.judge(&between, &leaf), (Verdict::Accepted, 2));
    assert_eq!(judge.judge(&[], &leaf), (Verdict::UnknownIssuer, 0));
    let (longest, leaf) = chain(9);
    assert_eq!(judge.judge(&longest, &leaf), (Verdict::Accepted, CERTIFICATES_MAX));
    let reversed: Vec<_> = longest.into_iter().rev().collect();
    assert_eq!(judge.judge(&reversed, &leaf), (Verdict::Accepted, CERTIFICATES_MAX));
}

#[test]
fn the_signatures_that_an_authority_can_have_checked_are_bounded() {
    let judge = Judge::of(&[root("root", 0)]);
    // Four authorities of one name, and five certificates that none of them signed.
    let mut presented: Vec<_> = (1..5).map(|key| authority("many", "root", key, 0)).collect();
    presented.extend((5..10).map(|key| authority("many", "many", key, 99)));
    let refused = (Verdict::Refused(Refusal::TooManySignatures), judge.checks_max());
    assert_eq!(judge.judge(&presented, &leaf("many", 100, 99)), refused);
    // With one key, that one is asked once, and copies count as one.
    for plan in &mut presented[..4] {
        plan.key = Key::Secp256k1(1);
    }
    presented[1].key = Key::Compressed(1);
    let checks = 2 + 5 + 1;
    assert_eq!(judge.judge(&presented, &leaf("many", 100, 99)), (Verdict::UnknownIssuer, checks));
}

#[test]
fn roots_of_one_name_are_all_tried() {
    // Each `build_chain.sh` calls its root the same.
    let roots: Vec<_> = (0..30).map(|key| root("root", key)).collect();
    let judge = Judge::of(&roots);
    for key in [0, 1, 29] {
        let agency = authority("agency", "root", 40, key);
        assert!(judge.accepts(&[agency], &leaf("agency", 100, 40)), "below root {key}");
    }
    assert!(!judge.accepts(&[authority("agency", "root", 40, 30)], &leaf("agency", 100, 40)));
}

#[test]
fn what_may_not_issue_is_told_before_a_signature_is_checked() {
    let good = authority("agency", "root", 1, 0);
    let large = |modulus_bits, exponent| Plan { key: Key::Rsa { modulus_bits, exponent }, ..good.clone() };
    let too_large = Verdict::Refused(Refusal::KeyTooLarge);
    for (verdict, agency) in [
        (Verdict::Expired, Plan { valid: (-2, -1), ..good.clone() }),
        (Verdict::NotValidYet, Plan { valid: (1, 2), ..good.clone() }),
        (Verdict::InvalidPurpose, Plan { constraints: Some((false, None)), ..good.clone() }),
        (Verdict::InvalidPurpose, Plan { constraints: None, ..good.clone() }),
        (Verdict::InvalidPurpose, Plan { constraints: None, version_1: true, ..good.clone() }),
        (Verdict::InvalidPurpose, Plan { usage: Some(DIGITAL_SIGNATURE | CRL_SIGN), ..good.clone() }),
        (
            Verdict::CriticalExtension,
            Plan { others: vec![(OID_NOBODY_KNOWS, true, vec![5, 0])], ..good.clone() },
        ),
        (Verdict::BadEncoding, Plan { others: vec![(OID_KEY_USAGE, false, vec![5, 0])], ..good.clone() }),
        (too_large, large(RSA_MODULUS_BITS_MAX + 1, RSA_EXPONENT_MAX)),
        (too_large, large(8_192, RSA_EXPONENT_MAX)),
        (too_large, large(2_048, RSA_EXPONENT_MAX + 2)),
        (too_large, large(2_048, (1 << 33) - 1)),
    ] {
        for signed_by in [0, 99] {
            let agency = Plan { signed_by, ..agency.clone() };
            let judge = Judge::of(&[root("root", 0)]);
            assert_eq!(judge.judge(&[agency], &leaf("agency", 100, 1)), (verdict, 0));
        }
    }
    // The same of a root says why nothing below it is good.
    let old = Judge::of(&[Plan { valid: (-2, -1), ..root("root", 0) }]);
    assert_eq!(old.judge(std::slice::from_ref(&good), &leaf("agency", 100, 1)), (Verdict::Expired, 0));
    // Where there is no room below, nobody is asked whether it issued.
    let narrow =
        Judge::of(&[Plan { version_1: false, constraints: Some((true, Some(0))), ..root("root", 0) }]);
    assert_eq!(
        narrow.judge(std::slice::from_ref(&good), &leaf("agency", 100, 1)),
        (Verdict::InvalidPurpose, 0)
    );
    // A foreign root of the same name is of another authority, and nothing else.
    let foreign = Judge::of(&[root("root", 0)]).judge(&[root("root", 7)], &leaf("root", 100, 7));
    assert_eq!(foreign, (Verdict::UnknownIssuer, 1));
}

#[test]
fn rsa_keys_up_to_the_bounds_are_used() {
    let rsa = |modulus_bits, exponent| Key::Rsa { modulus_bits, exponent };
    let judge = Judge::of(&[root("root", 0)]);
    let largest =
        Plan { key: rsa(RSA_MODULUS_BITS_MAX, RSA_EXPONENT_MAX), ..authority("agency", "root", 1, 0) };
    // The root's key looks at the agency, and the agency's at the leaf, which it has not signed.
    assert_eq!(judge.judge(&[largest], &leaf("agency", 100, 1)), (Verdict::UnknownIssuer, 2));
    let of_leaf = |key| judge.judge(&[], &Plan { key, ..leaf("root", 100, 0) });
    assert_eq!(of_leaf(rsa(RSA_MODULUS_BITS_MAX, RSA_EXPONENT_MAX)), (Verdict::Accepted, 1));
    let too_large = (Verdict::Refused(Refusal::KeyTooLarge), 0);
    assert_eq!(of_leaf(rsa(RSA_MODULUS_BITS_MAX + 1, RSA_EXPONENT_MAX)), too_large);
    assert_eq!(of_leaf(rsa(2_048, RSA_EXPONENT_MAX + 2)), too_large);
    // A root is its owner's choice.
    let owner = Judge::of(&[Plan { key: rsa(8_192, (1 << 33) - 1), ..root("root", 0) }]);
    assert_eq!(owner.judge(&[], &leaf("root", 100, 1)), (Verdict::UnknownIssuer, 1));
}

#[test]
fn a_bound_on_a_path_counts_the_authorities_below_it_without_the_leaf() {
    for authorities in 0..4 {
        let (between, leaf) = chain(authorities);
        // The root has `authorities` below it, each of the others one less.
        for place in 0..=authorities {
            for longest in 0..=4 {
                let bound = Some((true, Some(longest)));
                let mut root = Plan { version_1: false, constraints: Some((true, None)), ..root("root", 0) };
                let mut between = between.clone();
                match place.checked_sub(1) {
                    None => root.constraints = bound,
                    Some(index) => between[usize::from(index)].constraints = bound,
                }
                let below = authorities - place;
                let (verdict, _) = Judge::of(&[root]).judge(&between, &leaf);
                let expected = if below <= longest { Verdict::Accepted } else { Verdict::InvalidPurpose };
                assert_eq!(verdict, expected, "{below} below the bound of {longest} at {place}");
            }
        }
    }
}

#[test]
fn the_way_on_which_most_may_stand_below_an_authority_is_the_one_that_counts() {
    let bound = |longest, plan: Plan| Plan { constraints: Some((true, Some(longest))), ..plan };
    let (upper, lower) = (authority("upper", "root", 1, 0), authority("lower", "upper", 2, 1));
    let lowest = leaf("lower", 100, 2);
    let judge = Judge::of(&[root("root", 0)]);
    let narrow = bound(0, upper.clone());
    assert!(!judge.accepts(&[narrow.clone(), lower.clone()], &lowest));
    for presented in [
        [narrow.clone(), upper.clone(), lower.clone()],
        [upper.clone(), narrow.clone(), lower.clone()],
        [lower.clone(), narrow.clone(), bound(1, upper.clone())],
    ] {
        assert!(judge.accepts(&presented, &lowest));
    }
    // The lower one may be reached past the upper one, too.
    let direct = authority("lower", "root", 2, 0);
    assert!(judge.accepts(&[narrow.clone(), lower, direct], &lowest));
    // Two are below the upper one, where one of its certificates allows one.
    let (mut between, leaf) = chain(3);
    let narrow = bound(1, between[0].clone());
    assert!(!judge.accepts(&[std::slice::from_ref(&narrow), &between[1..]].concat(), &leaf));
    between.insert(1, narrow.clone());
    assert!(judge.accepts(&between, &leaf));
    between.swap(0, 1);
    assert!(judge.accepts(&between, &leaf));
    // No bound of its own gives an authority more than those above leave it.
    let narrow = bound(0, authority("upper", "root", 1, 0));
    let between = [narrow, bound(9, authority("lower", "upper", 2, 1))];
    assert!(!judge.accepts(&between, &lowest));
}

#[test]
fn ten_certificates_are_looked_at_and_eleven_are_not() {
    let judge = Judge::of(&[root("root", 0)]);
    let (mut presented, leaf) = chain(9);
    assert_eq!(presented.len() + 1, CERTIFICATES_MAX);
    assert!(judge.accepts(&presented, &leaf));
    presented.push(presented[0].clone());
    let refused = (Verdict::Refused(Refusal::TooManyCertificates), 0);
    assert_eq!(judge.judge(&presented, &leaf), refused);
    // Also where fewer would do.
    let (agency, leaf) = chain(1);
    let repeated = |count| agency.iter().cycle().take(count).cloned().collect::<Vec<_>>();
    assert_eq!(judge.judge(&repeated(9), &leaf), (Verdict::Accepted, 2));
    assert_eq!(judge.judge(&repeated(10), &leaf), refused);
    // A way that is longer than what may be presented: the rest is ours.
    let (longest, leaf) = chain(12);
    let known = Judge { known: longest[..3].to_vec(), ..Judge::of(&[root("root", 0)]) };
    assert_eq!(known.judge(&longest[3..], &leaf), (Verdict::Accepted, 13));
}

#[test]
fn a_certificate_is_looked_at_up_to_its_longest_length() {
    let judge = Judge::of(&[root("root", 0)]);
    let padded = |plan: &Plan, len: usize| {
        let with = |(pad, fill): (usize, u8)| {
            Plan { others: vec![(OID_NOBODY_KNOWS, false, vec![fill; pad])], ..plan.clone() }.der()
        };
        // The length of a signature is not always the same.
        let pads = (len - 600..len).rev().flat_map(|pad| (0..4).map(move |fill| (pad, fill)));
        pads.map(with).find(|der| der.len() == len).unwrap()
    };
    let (agency, leaf) = chain(1);
    for (len, is_good) in [(CERTIFICATE_LEN_MAX, true), (CERTIFICATE_LEN_MAX + 1, false)] {
        let too_long = (Verdict::Refused(Refusal::CertificateTooLong), 0);
        let expected = if is_good { (Verdict::Accepted, 2) } else { too_long };
        let long = padded(&leaf, len);
        assert_eq!(judge.judge_ders(&[agency[0].der()], &long), expected, "a leaf of {len}");
        let long = padded(&agency[0], len);
        assert_eq!(judge.judge_ders(&[long], &leaf.der()), expected, "an agency of {len}");
    }
}

/// Root, agency and leaf, of which the one at a place is changed.
fn changed(place: usize, change: impl Fn(&mut Plan)) -> Verdict {
    let (mut between, mut leaf) = chain(1);
    let mut root = Plan { version_1: false, constraints: Some((true, None)), ..root("root", 0) };
    change([&mut root, &mut between[0], &mut leaf][place]);
    Judge::of(&[root]).judge(&between, &leaf).0
}

#[test]
fn a_leaf_and_authorities_need_the_usage_that_they_are_put_to() {
    for (usage, is_good_for_authority, is_good_for_leaf) in [
        (None, true, true),
        (Some(DIGITAL_SIGNATURE), false, true),
        (Some(DIGITAL_SIGNATURE | KEY_ENCIPHERMENT), false, true),
        (Some(CERT_SIGN), true, false),
        (Some(CERT_SIGN | CRL_SIGN), true, false),
        (Some(DIGITAL_SIGNATURE | CERT_SIGN), true, true),
        (Some(CRL_SIGN), false, false),
        (Some(KEY_ENCIPHERMENT), false, false),
    ] {
        for place in 0..3 {
            let is_good = if place < 2 { is_good_for_authority } else { is_good_for_leaf };
            let expected = if is_good { Verdict::Accepted } else { Verdict::InvalidPurpose };
            assert_eq!(changed(place, |plan| plan.usage = usage), expected, "{usage:?} at {place}");
        }
    }
}

#[test]
fn who_is_an_authority_says_so_unless_it_is_a_root_without_extensions() {
    for (constraints, version_1, at_root, at_agency) in [
        (Some((true, None)), false, true, true),
        (Some((false, None)), false, false, false),
        (None, false, true, false),
        (None, true, true, false),
    ] {
        for (place, is_good) in [(0, at_root), (1, at_agency), (2, true)] {
            let verdict =
                changed(place, |plan| (plan.constraints, plan.version_1) = (constraints, version_1));
            let expected = if is_good { Verdict::Accepted } else { Verdict::InvalidPurpose };
            assert_eq!(verdict, expected, "{constraints:?} {version_1} at {place}");
        }
    }
    // A root that says something, but not this.
    let usage_alone = changed(0, |plan| (plan.constraints, plan.usage) = (None, Some(CERT_SIGN)));
    assert_eq!(usage_alone, Verdict::InvalidPurpose);
}

#[test]
fn critical_extensions_that_nobody_reads_are_refused_in_every_place() {
    let server_and_client_auth =
        [&[0x30, 20][..], &[6, 8, 43, 6, 1, 5, 5, 7, 3, 1], &[6, 8, 43, 6, 1, 5, 5, 7, 3, 2]].concat();
    for (oid, value) in [
        (OID_NOBODY_KNOWS, vec![5, 0]),
        (OID_NAME_CONSTRAINTS, vec![0x30, 0]),
        (OID_EXTENDED_KEY_USAGE, server_and_client_auth),
    ] {
        for place in 0..3 {
            for critical in [false, true] {
                let verdict = changed(place, |plan| plan.others = vec![(oid, critical, value.clone())]);
                let expected = if critical { Verdict::CriticalExtension } else { Verdict::Accepted };
                assert_eq!(verdict, expected, "{oid} at {place}");
            }
        }
    }
}

#[test]
fn malformed_and_repeated_constraints_and_usages_are_refused_in_every_place() {
    let authority_again = vec![0x30, 3, 1, 1, 0xff];
    for place in 0..3 {
        for (oid, value) in [
            (OID_BASIC_CONSTRAINTS, authority_again.clone()),
            (OID_BASIC_CONSTRAINTS, vec![0x31, 0x7f]),
            (OID_KEY_USAGE, vec![4, 0x7f]),
        ] {
            let verdict = changed(place, |plan| plan.others = vec![(oid, false, value.clone())]);
            assert_eq!(verdict, Verdict::BadEncoding, "{oid} {value:?} at {place}");
        }
        let verdict = changed(place, |plan| {
            plan.usage = Some(DIGITAL_SIGNATURE | CERT_SIGN);
            plan.others = vec![(OID_KEY_USAGE, false, vec![3, 2, 2, DIGITAL_SIGNATURE | CERT_SIGN])];
        });
        assert_eq!(verdict, Verdict::BadEncoding, "two usages at {place}");
    }
}

#[test]
fn times_are_looked_at_in_every_place() {
    for place in 0..3 {
        for (valid, expected) in [
            ((-1, 1), Verdict::Accepted),
            ((0, 1), Verdict::Accepted),
            ((-1, 0), Verdict::Accepted),
            ((-2, -1), Verdict::Expired),
            ((1, 2), Verdict::NotValidYet),
        ] {
            assert_eq!(changed(place, |plan| plan.valid = valid), expected, "{valid:?} at {place}");
        }
    }
}

/// Of agency B: what its node demands of the issuer of others.
fn at_agency_b(also_version_1: bool, known: &[Plan]) -> Judge {
    let own = leaf("agency b", 90, 2).der();
    let policy = IssuerPolicy { like: Some(own), also_version_1 };
    Judge { known: known.to_vec(), policy, ..Judge::of(&[root("root", 0)]) }
}

#[test]
fn the_issuer_is_the_nodes_own_by_its_key_and_not_by_its_name_alone() {
    let agency_a = authority("agency a", "root", 1, 0);
    let agency_b = authority("agency b", "root", 2, 0);
    let other_issuer = Verdict::Refused(Refusal::NotTheNodesIssuer);
    let node = at_agency_b(false, std::slice::from_ref(&agency_b));
    assert_eq!(node.judge(&[], &leaf("agency b", 100, 2)).0, Verdict::Accepted);
    assert_eq!(node.judge(std::slice::from_ref(&agency_a), &leaf("agency a", 100, 1)).0, other_issuer);
    // Agency A makes an authority of the name of agency B.
    let named_like_b = authority("agency b", "agency a", 3, 1);
    let posing = [named_like_b.clone(), agency_a.clone()];
    assert_eq!(node.judge(&posing, &leaf("agency b", 100, 3)).0, other_issuer);
    // And has agency B's own key certified under another name.
    let key_of_b = authority("agency c", "agency a", 2, 1);
    assert_eq!(node.judge(&[key_of_b, agency_a.clone()], &leaf("agency c", 100, 2)).0, other_issuer);
    // B itself, renewed, and with its point in the short form.
    let renewed = Plan { valid: (0, 5), key: Key::Compressed(2), ..agency_b.clone() };
    let expired = at_agency_b(false, &[Plan { valid: (-2, -1), ..agency_b.clone() }]);
    assert_eq!(expired.judge(&[renewed], &leaf("agency b", 100, 2)).0, Verdict::Accepted);
    // Where nothing here tells B's key, no name will do.
    let without = at_agency_b(false, &[]);
    assert_eq!(without.judge(std::slice::from_ref(&agency_b), &leaf("agency b", 100, 2)).0, other_issuer);
    let misled = at_agency_b(false, &[named_like_b]);
    assert_eq!(misled.judge(&posing, &leaf("agency b", 100, 3)).0, other_issuer);
}

#[test]
fn certificates_without_constraints_are_asked_for_their_issuer_only_where_that_is_wanted() {
    let agency_a = authority("agency a", "root", 1, 0);
    let agency_b = authority("agency b", "root", 2, 0);
    let old = |plan: Plan| Plan { version_1: true, constraints: None, ..plan };
    let of_a = old(leaf("agency a", 100, 1));
    let of_b = old(leaf("agency b", 100, 2));
    for (also_version_1, verdict) in
        [(false, Verdict::Accepted), (true, Verdict::Refused(Refusal::NotTheNodesIssuer))]
    {
        let node = at_agency_b(also_version_1, std::slice::from_ref(&agency_b));
        assert_eq!(node.judge(std::slice::from_ref(&agency_a), &of_a).0, verdict);
        assert_eq!(node.judge(&[], &of_b).0, Verdict::Accepted);
        let posing = [authority("agency b", "agency a", 3, 1), agency_a.clone()];
        assert_eq!(node.judge(&posing, &old(leaf("agency b", 100, 3))).0, verdict);
    }
}
